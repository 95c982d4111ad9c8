"""The kill harness: real processes, ended with SIGKILL at every step, and the books checked afterwards."""
