package main

import "github.com/spf13/cobra"

// later lists the commands that are settled but not built yet. They are known,
// so that a script for a later version fails with the right words.
func later() []*cobra.Command {
	var commands []*cobra.Command
	for _, c := range []struct{ use, short string }{
		{"shadow [SPLIT] W", "Play a share of the primary's flows to the candidate too"},
		{"report [SPLIT]", "Tell how the candidate's answers differ"},
		{"top", "Watch all splits"},
		{"ramp [SPLIT]", "Raise the weight step by step, on evidence"},
		{"pause [SPLIT]", "Hold a ramp"},
		{"resume [SPLIT]", "Go on with a ramp"},
		{"approve [SPLIT] GATE", "Let a ramp through a gate"},
		{"promote [SPLIT]", "Finish: the candidate becomes the primary"},
		{"abort [SPLIT]", "End a ramp and go back"},
		{"confirm [SPLIT]", "Keep a change that was made with --confirm"},
		{"verify [SPLIT]", "Run the service's behaviours against its backends"},
		{"retire [SPLIT]", "Let go of the old primary"},
	} {
		commands = append(commands, &cobra.Command{
			Use: c.use, Short: c.short, DisableFlagParsing: true,
			RunE: func(cmd *cobra.Command, _ []string) error { return notAvailable(cmd.Name()) },
		})
	}
	return commands
}
