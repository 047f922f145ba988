package pods

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/control/cni/attach"
)

// TestManyPods: 100 pods at a time are attached without a failure; 500 one after the
// other take under 10 s, the last of them no longer than the first, and no memory that stays.
// Short runs have a tenth, and judge no times.
func TestManyPods(t *testing.T) {
	n := newNode(t)
	all, together := 50, 20
	long := os.Getenv("MILLRACE_TEST_LONG") != ""
	if long {
		all, together = 500, 100
	}
	for _, kind := range []string{attach.VhostUser, attach.TAP} {
		conf := n.conf(n.network("1.0.0", kind, fields{"ipam": nil}))
		first := n.memory("control")
		took, pods := n.addAll(conf, all)
		slices.Sort(took)
		p99, total := took[len(took)*99/100], time.Duration(0)
		for _, d := range took {
			total += d
		}
		t.Logf("%s: %d ADDs in %.2f s: median %v, p99 %v, longest %v; control has %d KiB, had %d KiB", kind, all, total.Seconds(), took[len(took)/2], p99, took[len(took)-1], n.memory("control"), first)
		if long && total > 10*time.Second {
			t.Errorf("%s: %d ADDs took %v", kind, all, total)
		}
		if long {
			late := n.lateAdds(conf)
			t.Logf("%s: with %d attached: p99 of 100 ADDs %v", kind, all, late)
			if late > 30*time.Millisecond {
				t.Errorf("%s: p99 of ADD with %d attached is %v, more than 30 ms", kind, all, late)
			}
		}
		n.together(conf, together, together)
		n.delAll(conf, pods)
		n.nothingLeft()
	}
}

// plugin runs the plugin and says how long it took. The error has what it wrote.
func (n *node) plugin(env []string, conf []byte) (time.Duration, error) {
	cmd := exec.Command(filepath.Join(n.bin, "millrace-cni"))
	cmd.Env, cmd.Stdin = env, strings.NewReader(string(conf))
	began := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return time.Since(began), err
}

func (n *node) addAll(conf []byte, count int) (took []time.Duration, pods []*pod) {
	n.t.Helper()
	for range count {
		pods = append(pods, n.newPod())
	}
	for _, p := range pods {
		d, err := n.plugin(p.env(n, "ADD"), conf)
		check(n.t, err)
		took = append(took, d)
	}
	return took, pods
}

func (n *node) delAll(conf []byte, pods []*pod) {
	n.t.Helper()
	for _, p := range pods {
		_, err := n.plugin(p.env(n, "DEL"), conf)
		check(n.t, err)
	}
}

// lateAdds is the p99 of ADD when there are many already: the best of three tries, for
// others have the machine, too.
func (n *node) lateAdds(conf []byte) time.Duration {
	n.t.Helper()
	best := time.Hour
	for range 3 {
		took, pods := n.addAll(conf, 100)
		slices.Sort(took)
		best = min(best, took[98])
		n.delAll(conf, pods)
	}
	return best
}

// together attaches and detaches pods all at a time. want of them get what they ask for.
func (n *node) together(conf []byte, count, want int) {
	n.t.Helper()
	var pods []*pod
	for range count {
		pods = append(pods, n.newPod())
	}
	for _, verb := range []string{"ADD", "DEL"} {
		errs := make([]error, count)
		var running sync.WaitGroup
		for i, p := range pods {
			running.Go(func() { _, errs[i] = n.plugin(p.env(n, verb), conf) })
		}
		running.Wait()
		if failed := slices.DeleteFunc(errs, func(err error) bool { return err == nil }); verb == "ADD" && len(failed) != count-want || verb == "DEL" && len(failed) > 0 {
			n.t.Errorf("%s of %d at a time: %d fail, want %d: %v", verb, count, len(failed), count-want, failed)
		}
	}
}

// memory is how much of the machine's a process of the switch has, in KiB.
func (n *node) memory(command string) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.process(command)))
	check(n.t, err)
	_, after, _ := strings.Cut(string(text), "VmRSS:")
	kib := 0
	fmt.Sscan(after, &kib)
	return kib
}

// TestSmallAndQuick: the plugin is a small program, and its VERSION takes next to no
// time. What others have of the CPUs is not the plugin's, so it may try for a while; what is slow in itself is
// slow each time.
func TestSmallAndQuick(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the programs")
	}
	bin, err := programs()
	check(t, err)
	st, err := os.Stat(filepath.Join(bin, "millrace-cni"))
	check(t, err)
	const most = 15 * time.Millisecond
	best := time.Hour
	for end := time.Now().Add(patience); best > most && time.Now().Before(end); {
		cmd := exec.Command(filepath.Join(bin, "millrace-cni"))
		cmd.Env = []string{"CNI_COMMAND=VERSION"}
		began := time.Now()
		out, err := cmd.Output()
		check(t, err)
		best = min(best, time.Since(began))
		if !strings.Contains(string(out), `"1.1.0"`) {
			t.Fatalf("VERSION: %s", out)
		}
	}
	t.Logf("%.1f MB, VERSION in %v", float64(st.Size())/1e6, best)
	if st.Size() > 12e6 || best > most {
		t.Errorf("%d bytes, VERSION in %v at best", st.Size(), best)
	}
}
