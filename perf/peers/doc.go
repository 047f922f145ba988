// Package peers starts the programs that millrace is tested with and measured
// against: dpdk-testpmd, Open vSwitch with DPDK, and a small Linux under QEMU.
//
// Each peer is one value. Starting it makes a temporary directory, reserves
// memory and waits until the program is ready or the context ends; Close stops
// the whole process group and takes everything away again. What a program
// printed is kept, and the last of it is in every error. Peers share nothing
// with the machine's own Open vSwitch or with each other.
//
// Both DPDK programs run with --in-memory, so they need free hugepages but no
// mounted hugetlbfs, and leave no files behind.
package peers
