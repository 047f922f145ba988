// Package acceptance holds the tests that the product is accepted by: they build
// the program, run `millrace run` as a user does (or the dataplane alone), and put real guests on it.
//
//	TestTestpmd       DPDK's virtio-user in both roles, every receive path, 60 to 9000 bytes
//	TestQEMU          Linux guests that ping each other, also across a crash of the dataplane
//	TestIdle          100 ports and no traffic: processor time and memory
//	TestAttach        from the call of AddPort to forwarding
//	TestFirstFrame    a frame after idleness
//	TestKills         both sides of a socket killed at random, under load
//	TestDeaths        control, database, dataplane and supervisor killed at random, under traffic
//	TestControlAway, TestDatabaseAway, TestBootWithoutDatabase  what goes on without them
//	TestConnectionsOutliveControl  connections that control has nothing to do with
//	TestSNAT, TestLoadBalancer  kernels that speak TCP through connection tracking, many connections at a time
//	TestEgress, TestEgressFaults  a control plane's requests through a tunnel, also while servers, the agent and the link fail
//	TestHostileGuest  all mischief that a guest can do, beside two ports that forward
//
// Each test ends with the same questions: do the accounts of all ports balance,
// does the switch end cleanly, is no process, socket or hugepage left.
package acceptance
