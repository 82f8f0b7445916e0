"""podrun's functions and classes, for tests that call them in their own process."""

import argparse
import asyncio
import contextlib
import http.client
import runpy
import threading
from types import SimpleNamespace

from tests.podrun.hosts import PODRUN

# What the launcher alone imports, as its file is run here like an agent.
LAUNCHER = {m.__name__: m for m in (argparse, asyncio, contextlib, threading)} | {"http": http}
podrun = SimpleNamespace(**runpy.run_path(str(PODRUN), LAUNCHER, run_name="podrun"))
