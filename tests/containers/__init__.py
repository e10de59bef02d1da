"""What runs the proxy in containers, checked where no engine is: by linters, by rules, and by running its parts."""
