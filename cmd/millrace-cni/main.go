// Command millrace-cni is the CNI plugin: container runtimes and Multus run it to give
// pods interfaces that are ports of the switch. docs/kubernetes.md has what a network's
// configuration may say.
package main

import (
	"runtime"

	"github.com/containernetworking/cni/pkg/skel"

	"millrace/control/cni"
)

// release is the version. The linker sets it (-X main.release).
var release = "dev"

func main() {
	runtime.LockOSThread() // network namespaces are threads'
	skel.PluginMainFuncs(cni.Funcs(), cni.Versions(), "CNI plugin millrace-cni "+release)
}
