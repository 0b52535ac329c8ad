"""A plan, shown: as text, as JSON, as a page. No server is asked."""
