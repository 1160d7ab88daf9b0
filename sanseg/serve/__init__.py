"""The service: one model behind HTTP, for the page and for programs (extra `serve`; docs/SERVICE.md).

`app.create_app(segmenter, settings)` is an ASGI application, `server.run` keeps one on a socket.
"""
