"""What users need to test their own code against a stand-in of a Parlant server."""
