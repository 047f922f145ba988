package main

func qemuCases() []scenario { return nil }
