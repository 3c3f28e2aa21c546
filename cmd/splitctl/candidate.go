package main

import (
	"github.com/spf13/cobra"

	"github.com/splitd/splitd/internal/ladder"
)

// candidateWord is the command that `shadow --self-test` starts for each candidate.
const candidateWord = "self-test-candidate"

// candidate is what a self-test starts: it is nobody's to type.
func (a *app) candidate() *cobra.Command {
	return &cobra.Command{
		Use:                candidateWord + " BEHAVIOUR ADDRESS SEED",
		Hidden:             true,
		DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			return ladder.ServeCandidate(args, a.stdin, a.stdout)
		},
	}
}
