"""codepose."""
