"""Twisted's HTTP server, whose answers take their time: /slow, /upload, /events (for ever).

Its reactor handles SIGTERM: it closes every connection, also those with a request in progress.
"""

import os
import sys

from twisted.internet import reactor
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site


class Answers(Resource):
    isLeaf = True  # noqa: N815 - a name of Twisted

    def render_GET(self, request):  # noqa: N802 - its name in Twisted
        if request.path == b"/events":
            request.setHeader(b"Content-Type", b"text/event-stream")
            request.write(b"data: 10\n\n")
        elif request.path == b"/slow":
            reactor.callLater(float(os.environ.get("SECONDS", "1.5")), self.answer, request)
        else:
            return b"0"
        return NOT_DONE_YET

    def render_POST(self, request):  # noqa: N802 - a name of Twisted
        return str(len(request.content.read())).encode()

    def answer(self, request):
        request.write(b"0")
        request.finish()


reactor.listenTCP(int(sys.argv[1]), Site(Answers()), interface="127.0.0.1")
reactor.run()
