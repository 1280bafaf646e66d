"""The server's side of a deployment: its folder, its registry of devices, and the one door to it."""
