"""The doors: how a running service is commanded.

``registry``    the commands, one definition each, in ``commands/``
``arguments``   from words and JSON to a command's arguments
``service``     what the doors may ask of a service (the master implements it)
``errors``      how a command fails
``http``        the server of the doors, and with it ``app`` (the routes), ``sent`` (what a request holds), ``stream``
``access``      who may knock, and for what
``client``      the other end: over the Unix socket or TCP
``cli``         the command line, and with it ``starting``, ``session``, ``render``, ``console``

Nothing here imports the master or the guardian, and only ``http`` and what goes with it needs a web server.
"""
