"""Several hundred different rigid parts, on which networks that know no particular part are trained."""
