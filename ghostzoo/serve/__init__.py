"""The server behind ``ghostzoo serve``: REST, gRPC and a web page in front of one scheduler."""
