package main

import (
	"github.com/spf13/cobra"
)

func (a *app) predictCommands() []*cobra.Command { return nil }
func (a *app) applyCommands() []*cobra.Command   { return nil }
