package peers

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// guestModules are what the guest's kernel needs for virtio network devices;
// their own needs come from modules.dep.
var guestModules = [...]string{"virtio_pci", "virtio_net"}

// A kernel is one that the machine has installed.
type kernel struct {
	image   string // the bzImage
	modules string // its directory below /lib/modules
}

// guestKernel returns the newest installed kernel that has both parts.
func guestKernel() (kernel, error) {
	image, ok := newest("/boot/vmlinuz-*")
	if ok {
		k := kernel{image, "/lib/modules/" + strings.TrimPrefix(filepath.Base(image), "vmlinuz-")}
		if _, err := os.Stat(filepath.Join(k.modules, "modules.dep")); err == nil {
			return k, nil
		}
	}
	return kernel{}, &MissingError{"a kernel in /boot with modules", "apt-get install linux-image-amd64"}
}

// moduleFiles returns the files of modules and of what they need, each after
// what it needs (modules.dep, depmod(8)).
func (k kernel) moduleFiles(modules ...string) ([]string, error) {
	dep, err := os.ReadFile(filepath.Join(k.modules, "modules.dep"))
	if err != nil {
		return nil, err
	}
	needs, byName := parseModulesDep(string(dep))
	var order []string
	seen := map[string]bool{}
	var add func(file string)
	add = func(file string) {
		if seen[file] {
			return
		}
		seen[file] = true
		for _, need := range needs[file] {
			add(need)
		}
		order = append(order, filepath.Join(k.modules, file))
	}
	for _, m := range modules {
		file, ok := byName[m]
		if !ok {
			continue // built into the kernel
		}
		add(file)
	}
	return order, nil
}

// parseModulesDep returns the files that each file needs, and the file of each module.
func parseModulesDep(dep string) (needs map[string][]string, byName map[string]string) {
	needs, byName = map[string][]string{}, map[string]string{}
	for line := range strings.Lines(dep) {
		file, rest, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			continue
		}
		needs[file] = strings.Fields(rest)
		name, _, _ := strings.Cut(filepath.Base(file), ".ko")
		byName[strings.ReplaceAll(name, "-", "_")] = file
	}
	return needs, byName
}

// readModule returns the module in file as insmod wants it.
func readModule(file string) ([]byte, error) {
	switch filepath.Ext(file) {
	case ".ko":
		return os.ReadFile(file)
	case ".xz", ".zst", ".gz":
		unpack := map[string]string{".xz": "xz", ".zst": "zstd", ".gz": "gzip"}[filepath.Ext(file)]
		out, err := exec.Command(unpack, "-dc", file).Output()
		if err != nil {
			return nil, fmt.Errorf("unpack %s: %w", file, err)
		}
		return out, nil
	}
	return nil, fmt.Errorf("unpack %s: unknown compression", file)
}

// guestInit is the guest's first program. It mounts, loads the modules, and
// then runs each line that it reads, in a shell of its own; the marks around
// the output are what Run looks for.
const guestInit = `#!/bin/busybox sh
b=/bin/busybox
$b mkdir -p /proc /sys /dev /tmp /sbin /usr/bin /usr/sbin
$b --install -s
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
dmesg -n 1
for m in /lib/modules/*; do insmod $m; done
ip link set lo up
stty -echo -onlcr
echo "@@ready $(cut -d' ' -f1 /proc/uptime)"
while read -r line; do
	sh -c "$line" 2>&1
	echo "@@end $?"
done
poweroff -f
`

// programFiles are the files of programs: their own and those of the libraries
// that they are linked to, each where it is on this machine.
func programFiles(programs []string) ([]string, error) {
	var files []string
	for _, p := range programs {
		path, err := find(p)
		if err != nil {
			return nil, err
		}
		out, err := exec.Command("ldd", path).Output()
		if err != nil {
			return nil, fmt.Errorf("libraries of %s: %w", path, err)
		}
		files = append(append(files, path), libraries(string(out))...)
	}
	slices.Sort(files)
	return slices.Compact(files), nil
}

// libraries are the files that ldd(1) has printed.
func libraries(ldd string) []string {
	var files []string
	for word := range strings.FieldsSeq(ldd) {
		if strings.HasPrefix(word, "/") {
			files = append(files, word)
		}
	}
	return files
}

// addTree adds files of this machine, with the directories that they are in.
func (a *archive) addTree(files []string) error {
	made := map[string]bool{"bin": true, "dev": true, "lib": true}
	for _, f := range files {
		body, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(f, "/")
		for i, c := range name {
			if dir := name[:i]; c == '/' && !made[dir] {
				made[dir] = true
				a.add(dir, 0o040755, nil)
			}
		}
		a.add(name, 0o100755, body)
	}
	return nil
}

// initramfs returns a compressed cpio archive with busybox, the modules, programs
// and guestInit.
func (k kernel) initramfs(programs []string) ([]byte, error) {
	more, err := programFiles(programs)
	if err != nil {
		return nil, err
	}
	busybox, err := find("busybox")
	if err != nil {
		return nil, err
	}
	shell, err := os.ReadFile(busybox)
	if err != nil {
		return nil, err
	}
	files, err := k.moduleFiles(guestModules[:]...)
	if err != nil {
		return nil, err
	}
	var packed bytes.Buffer
	z, err := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	a := archive{out: z}
	for _, d := range []string{"bin", "dev", "lib", "lib/modules"} {
		a.add(d, 0o040755, nil)
	}
	a.add("init", 0o100755, []byte(guestInit))
	a.add("bin/busybox", 0o100755, shell)
	for i, f := range files {
		m, err := readModule(f)
		if err != nil {
			return nil, err
		}
		a.add(fmt.Sprintf("lib/modules/%02d-%s", i, filepath.Base(f)), 0o100644, m)
	}
	err = errors.Join(a.addTree(more), a.close(), z.Close())
	return packed.Bytes(), err
}

// An archive writes a cpio archive in the format that the kernel reads as
// initramfs (Documentation/driver-api/early-userspace/buffer-format.rst).
type archive struct {
	out   io.Writer
	inode uint32
	err   error // the first; later calls do nothing
}

// add writes one entry. mode is that of stat(2) with the file type.
func (a *archive) add(name string, mode uint32, body []byte) {
	if a.err != nil {
		return
	}
	a.inode++
	header := "070701"
	for _, field := range []uint32{a.inode, mode, 0, 0, 1, 0, uint32(len(body)), 0, 0, 0, 0, uint32(len(name) + 1), 0} {
		header += fmt.Sprintf("%08X", field)
	}
	entry := pad4([]byte(header + name + "\x00"))
	_, a.err = a.out.Write(append(entry, pad4(body)...))
}

// close writes the entry that ends the archive.
func (a *archive) close() error {
	a.add("TRAILER!!!", 0, nil)
	return a.err
}

// pad4 fills b with zeros to a multiple of four bytes, without touching it.
func pad4(b []byte) []byte { return append(b[:len(b):len(b)], make([]byte, -len(b)&3)...) }
