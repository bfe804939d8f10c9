"""What the tests of a whole service use: a service to command, a load to bear, ports to serve on."""
