"""The planner on the command line: tables for people, job scripts for clusters."""
