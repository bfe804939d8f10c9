"""Django's development server, whose answers take their time: /slow, /upload."""

import os
import sys
import time

from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpResponse
from django.urls import re_path

settings.configure(
    ALLOWED_HOSTS=["*"],
    DATABASES={},
    LOGGING_CONFIG=None,
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],  # gives Content-Length, and so kept connections
    ROOT_URLCONF=__name__,
    SECRET_KEY="none",
)


def slow(request):
    if request.path == "/slow":
        time.sleep(float(os.environ.get("SECONDS", "1.5")))
    return HttpResponse(str(len(request.body)))


urlpatterns = [re_path("", slow)]
address = f"127.0.0.1:{sys.argv[1]}"
execute_from_command_line(["manage.py", "runserver", "--noreload", "--skip-checks", address])
