package main

import "github.com/spf13/cobra"

// later lists the commands that are settled but not built yet. They are known,
// so that a script for a later version fails with the right words.
func later() []*cobra.Command {
	var commands []*cobra.Command
	const (
		byHand  = "raise by hand, as in `splitctl set mx 1%`, look at `splitctl status` and go on"
		back    = "`splitctl undo` goes one step back, `splitctl off` all the way"
		noRamp  = "there are no ramps yet to steer: `splitctl set` raises, `splitctl undo` goes back"
		noTests = "connect to the new host and look for yourself: `splitctl doctor` looks at the way there"
	)
	for _, c := range []struct{ use, short, instead string }{
		{"top", "Watch all splits", "`watch splitctl status` does"},
		{"ramp [SPLIT]", "Raise the weight step by step, on evidence", byHand},
		{"pause [SPLIT]", "Hold a ramp", noRamp},
		{"resume [SPLIT]", "Go on with a ramp", noRamp},
		{"approve [SPLIT] GATE", "Let a ramp through a gate", noRamp},
		{"promote [SPLIT]", "Finish: the candidate becomes the primary", "`splitctl set mx 100%` sends all new flows to the candidate"},
		{"abort [SPLIT]", "End a ramp and go back", back},
		{"confirm [SPLIT]", "Keep a change that was made with --confirm", "no change waits for it: `splitctl history` has what was changed"},
		{"verify [SPLIT]", "Run the service's behaviours against its backends", noTests},
		{"retire [SPLIT]", "Let go of the old primary", "at 100% remove the split from the configuration and run `splitctl apply`"},
	} {
		commands = append(commands, &cobra.Command{
			Use: c.use, Short: c.short, DisableFlagParsing: true,
			RunE: func(cmd *cobra.Command, _ []string) error { return notAvailable(cmd.Name(), c.instead) },
		})
	}
	return commands
}
