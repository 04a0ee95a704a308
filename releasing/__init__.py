"""What is done before a release: build it, look into it, and use it as somebody does who has just installed it."""
