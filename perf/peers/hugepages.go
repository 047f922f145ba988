package peers

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// pagesFile is the pool of 2 MiB pages (kernel Documentation/admin-guide/mm/hugetlbpage.rst).
	pagesFile = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
	freeFile  = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages"
	// claimsDir holds one file per reservation, named for its process, so that
	// the pages of a process that was killed are given back by the next one.
	claimsDir = "/run/millrace-hugepages"
)

// Hugepages reserves n pages of 2 MiB beyond what others have reserved, and
// returns the function that gives them back. Without root it only checks that
// n are free. The pages count for this process until it ends, and those of a
// process that is gone are given back first.
func Hugepages(n int) (release func(), err error) {
	if os.Geteuid() != 0 {
		return checkFree(n)
	}
	unlock, err := lockClaims()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := dropDeadClaims(); err != nil {
		return nil, err
	}
	before, err := readInt(pagesFile)
	if err != nil {
		return nil, &MissingError{"hugepages", "a kernel with CONFIG_HUGETLBFS (" + err.Error() + ")"}
	}
	if err := changePages(n); err != nil {
		return nil, &MissingError{"hugepages", err.Error()}
	}
	after, err := readInt(pagesFile)
	if err != nil || after-before < n {
		return nil, errors.Join(err, changePages(before-after),
			&MissingError{"hugepages", fmt.Sprintf("memory for %d pages of 2 MiB; the kernel found %d", n, after-before)})
	}
	claim, err := os.CreateTemp(claimsDir, fmt.Sprintf("%d.", os.Getpid()))
	if err != nil {
		return nil, errors.Join(err, changePages(-n))
	}
	defer claim.Close()
	if _, err := fmt.Fprint(claim, n); err != nil {
		return nil, errors.Join(err, os.Remove(claim.Name()), changePages(-n))
	}
	return func() { releaseClaim(claim.Name(), n) }, nil
}

// checkFree is Hugepages for a user who cannot reserve.
func checkFree(n int) (release func(), err error) {
	free, err := readInt(freeFile)
	if err != nil || free < n {
		return nil, &MissingError{"hugepages", fmt.Sprintf("as root: echo %d > %s (%d free)", n, pagesFile, free)}
	}
	return func() {}, nil
}

// canReserve says whether Hugepages may succeed, as an error if not.
func canReserve() error {
	if os.Geteuid() != 0 {
		_, err := checkFree(64)
		return err
	}
	if err := unix.Access(pagesFile, unix.W_OK); err != nil {
		return &MissingError{"hugepages", fmt.Sprintf("%s must be writable (%v)", pagesFile, err)}
	}
	return nil
}

// lockClaims keeps other processes from reserving until unlock is called.
func lockClaims() (unlock func(), err error) {
	if err := os.MkdirAll(claimsDir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(claimsDir, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock hugepage reservations: %w", err)
	}
	return func() { f.Close() }, nil
}

// releaseClaim gives n pages back and forgets the claim. It has no way to fail
// that a caller could mend: the next Hugepages mends it.
func releaseClaim(name string, n int) {
	unlock, err := lockClaims()
	if err != nil {
		return
	}
	defer unlock()
	if os.Remove(name) == nil {
		_ = changePages(-n)
	}
}

// dropDeadClaims gives back the pages of processes that are gone.
func dropDeadClaims() error {
	names, err := filepath.Glob(filepath.Join(claimsDir, "*.*"))
	if err != nil {
		return err
	}
	for _, name := range names {
		pid, _, _ := strings.Cut(filepath.Base(name), ".")
		id, err := strconv.Atoi(pid)
		if err != nil || !errors.Is(syscall.Kill(id, 0), syscall.ESRCH) {
			continue
		}
		n, err := readInt(name)
		if err != nil {
			n = 0 // it died between making the file and filling it
		}
		if err := errors.Join(os.Remove(name), changePages(-n)); err != nil {
			return err
		}
	}
	return nil
}

// changePages adds n, which may be negative, to the pool.
func changePages(n int) error {
	have, err := readInt(pagesFile)
	if err != nil {
		return err
	}
	return os.WriteFile(pagesFile, []byte(strconv.Itoa(max(0, have+n))), 0)
}

// readInt reads the number that file name begins with.
func readInt(name string) (int, error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	word := bufio.NewScanner(f)
	word.Split(bufio.ScanWords)
	if !word.Scan() {
		return 0, fmt.Errorf("%s is empty", name)
	}
	return strconv.Atoi(word.Text())
}
