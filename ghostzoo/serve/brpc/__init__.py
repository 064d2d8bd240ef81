"""bRPC, for clients of Paddle Serving's C++ server."""
