"""One instance of a Rondo cluster: an engine and its step loop."""
