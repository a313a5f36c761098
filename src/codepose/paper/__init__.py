"""The paper's experiment by one command, and its report."""
