"""What should be, and the loop that makes it so: resources -> plan -> backend -> status. Opens no socket."""
