// Package pods holds the tests of what pods have of the switch: a container runtime's
// library runs the plugin, Debian's IPAM plugins give addresses, and programs in
// network namespaces use what came of it.
//
//	TestKinds          each kind of interface by each version of CNI: add, use, check, delete
//	TestUnprivileged   a DPDK application without any rights, in namespaces of its own
//	TestPluginSteps, TestSwitchSteps, TestCrashes  plugin, agent, dataplane and database killed at each step of ADD and DEL, and at moments between
//	TestPluginStepsOfOthers, TestSwitchStepsOfGC  the same with GC and CHECK
//	TestPluginStepsWhileAway, TestOrphanedIPAM, TestCallerGone  the plugin killed without a switch, without its IPAM plugin, and while its call waits
//	TestAllocateSteps  the device plugin killed at each step of Allocate, and before the pod starts
//	TestSupervisorKilled, TestRebooted, TestDatabaseLost  the supervisor, the host and its /run, the database
//	TestChanged, TestSocketGone, TestTwice, TestIPv6, TestVethQueues, TestBehind, TestSlotAgain, TestSameMAC, TestAnnounce, TestResults  what runtimes and people do that they need not
//	TestExamples       the networks and pods of deploy/examples
//	TestBadConf        configurations that are wrong in each of their fields
//	TestRates, TestPortSecurity  how much a pod sends and receives, and as whom
//	TestMultus         what Multus gives and takes when it delegates
//	TestMultusItself   Multus, where the environment names one, with an API server and kubelet's pod resources
//	TestOVSCNI, TestUserspaceCNI  what other plugins write into the database
//	TestOVSCNIItself, TestUserspaceCNIItself  the stock plugins, where the environment names them
//	TestImage          the image, built and run with the DaemonSet's rights
//	TestKubeletItself  kubelet, where the environment names one, and containerd run the DaemonSet's pod and pods with slots
//	TestKubeletAndMultus  the same with Multus between, from the annotation to the answer of a DPDK application
//	TestManyPods       500 pods, and 100 at a time
//
// All of it runs in a network namespace and a mount namespace of the test binary's.
package pods
