"""Where models come from: the Hub, the official weights, and the folder that keeps what came from them.

``fetch`` decides the order in which they are asked.
"""
