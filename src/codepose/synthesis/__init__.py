"""From a CAD model to labelled images."""
