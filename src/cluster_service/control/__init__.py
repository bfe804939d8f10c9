"""The control interface: how commands reach a running service.

``registry``    the commands, one definition each, in ``commands/``
``arguments``   parses words and JSON into the arguments of a command
``service``     what the endpoints need from a service (the master implements it)
``errors``      the error of a failed command
``http``        the HTTP server of the endpoints, with ``app`` (routes), ``sent`` (request parsing) and ``stream`` (SSE)
``access``      authentication and authorization
``client``      the client, over the Unix socket or TCP; ``aclient`` for asyncio, ``place`` for what both share
``cli``         the command line, with ``starting``, ``session``, ``render`` and ``console``
``completion``  completion for the console and, through ``shells``, for bash, zsh and fish

Nothing here imports the master or the guardian. Only ``http`` and the modules that belong to it need a web server.
"""
