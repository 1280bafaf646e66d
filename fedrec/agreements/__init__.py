"""What a server and its devices hold each other to: requests, rosters and publications, each signed and of one form."""
