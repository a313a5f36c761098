"""A trained network as a service, and the page that talks to it."""
