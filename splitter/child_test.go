package splitter

const childEnv = "SPLITTER_TEST_CHILD"

func runChild() int { return 1 }
