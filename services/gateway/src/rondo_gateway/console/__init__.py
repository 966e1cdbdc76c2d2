"""The console: what the cluster does now, in a browser, at /console.

Surface: `Console` (`api`), which the application installs and the program closes; `AnswerNews`
(`answered`), by which every gateway tells the others' consoles how its answers went.

What browsers see comes from the bus alone, so any gateway shows the whole cluster. Nothing is
subscribed to, asked or kept while nobody looks. See docs/console.md.
"""
