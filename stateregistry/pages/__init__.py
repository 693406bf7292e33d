"""Pages: what a report says as one HTML file that needs nothing but itself, and as a fragment for a notebook.

No network, no inline handler, a content security policy that names the one script and the one style by their digests. Every
name comes from a file and is escaped. Readable without the script; the same input gives the same bytes. Pictures are SVG
computed here. Stands on `report`; imports no framework and no terminal.
"""
