// Package arch holds no code, only tests of the house itself: who may import
// whom, which room a dependency belongs to, that every package says what it is,
// and a few rules on files. A test that fails here says which rule was broken,
// where, and why the rule stands. The rules are two tables, rooms and owners.
package arch
