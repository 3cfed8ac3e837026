"""One DVC stage a file: files in, files out."""
