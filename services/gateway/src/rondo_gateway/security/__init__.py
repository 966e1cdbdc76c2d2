"""The front door: API keys, scopes, limits, TLS, and the headers of pages.

For routes of administration and of the console. Put them below `/admin` or `/console`: the gate
(`security.gate`) asks for a key with the scope `admin` there, before a handler runs, and for one
with `inference` everywhere else, so nothing is open by having been forgotten. A handler that wants
to know who asks calls `security.identity.identity_of(request.scope)`.

Where no key file is set (`RONDO_KEYS`), everybody passes, under `Identity("", ...)`.

Programs send `Authorization: Bearer KEY`. A browser asks its user by itself, because the 401 below
`/console` and `/admin` offers Basic, too (any user name, the key as the password), and then sends
it with every request to the gateway: pages, scripts, `fetch` and `EventSource` need no code for
it, and pages must not store keys. Requests that change something are refused (403) when a page of
another site sent them.

Everything below `/console` and `/admin` gets a strict Content-Security-Policy: scripts, styles,
images and connections from the gateway itself only, no inline scripts, no inline styles (those
set from a script through `element.style` are fine), no frames. So keep scripts in `.js` files and
styles in `.css` files.
"""
