// Package configs reads, completes and judges splitd's configuration: the
// daemon's scalars and the definition of splits and return paths.
//
//	config, err := configs.Load(configs.Options{Files: []string{"mx.yaml"}})
//
// Every mistake of every file is reported at once, each with its place:
//
//	mx.yaml:12:21: splits[0].candidates[0].weight: 105% is over 100%
//
// Splits and return paths are read strictly from YAML nodes, because only they
// know where a value stands; viper does no more than rank the sources of the
// scalars (flags, environment, files, defaults). What a definition says is
// judged alone: whether an address is this host's, a device exists or a port
// is free is for the data planes to say.
//
// The package also ships reference.yaml, which shows every key with its
// default, and the examples; both are embedded and loaded by its tests.
package configs
