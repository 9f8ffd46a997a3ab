"""The controller: registers workers and routes requests to them."""
