"""The doors: how a running service is commanded.

``registry``    the commands, one definition each, in ``commands/``
``arguments``   from words and JSON to a command's arguments
``service``     what the doors may ask of a service (the master implements it)
``errors``      how a command fails
``http``        the server of the doors, and with it ``app`` (the routes), ``sent`` (what a request holds), ``stream``
``access``      who may knock, and for what
``client``      the other end: over the Unix socket or TCP; ``aclient`` for asyncio, ``place`` what both know
``cli``         the command line, and with it ``starting``, ``session``, ``render``, ``console``
``completion``  what may be written next: for the console, and (``shells``) for bash, zsh and fish

Nothing here imports the master or the guardian, and only ``http`` and what goes with it needs a web server.
"""
