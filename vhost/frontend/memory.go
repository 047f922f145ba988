package frontend

import (
	"errors"
	"fmt"

	"millrace/dataplane/sys"
	"millrace/vhost/guestmem"
	"millrace/vhost/message"
	"millrace/vhost/virtq"
)

const (
	// guestBase and userBase are the first addresses of memory: two that
	// nobody takes for each other, or for addresses of this process.
	guestBase = 0x1_0000_0000
	userBase  = 0x7e00_0000_0000

	// areaAlign is the alignment of each Area: two cache lines, as processors
	// fetch them in pairs.
	areaAlign = 128

	pageSize = 4096
)

// Memory is shared memory in one or several regions, each a memory file of its
// own, with a page that is not mapped between them in guest addresses. Areas
// are taken from it and never given back.
type Memory struct {
	regions []guestmem.Region
	files   []sys.FD
	used    []uint64 // bytes taken of each region
	mem     *guestmem.Map
	create  func(name string, size int64) (sys.FD, error)
}

// NewMemory returns zeroed memory in n regions of size bytes each, of huge pages
// if huge says so.
func NewMemory(n int, size uint64, huge bool) (*Memory, error) {
	page, create := uint64(pageSize), sys.NewMemfd
	if huge {
		page, create = sys.HugePage, sys.NewHugeMemfd
	}
	size = (size + page - 1) &^ (page - 1)
	m := &Memory{create: create}
	for i := range uint64(n) {
		off := i * (size + page)
		if err := m.add(guestmem.Region{GPA: guestBase + off, Size: size, User: userBase + off}); err != nil {
			return nil, errors.Join(err, m.Close())
		}
	}
	return m, nil
}

func (m *Memory) add(r guestmem.Region) error {
	fd, err := m.create("millrace-guest", int64(r.Size))
	if err != nil {
		return err
	}
	next, err := m.mem.With(r, fd.Int())
	if err != nil {
		return errors.Join(err, fd.Close())
	}
	err = m.mem.Close()
	m.mem = next
	m.regions, m.files, m.used = append(m.regions, r), append(m.files, fd), append(m.used, 0)
	return err
}

// Area takes n bytes of region i, which is counted round.
func (m *Memory) Area(i int, n uint64) (virtq.Area, error) {
	i %= len(m.regions)
	r := m.regions[i]
	w, _ := m.mem.Find(r.GPA)
	p, ok := w.At(r.GPA+m.used[i], n)
	if !ok {
		return virtq.Area{}, fmt.Errorf("take %d bytes of memory region %d: %d of %d bytes are taken (raise Config.Extra)", n, i, m.used[i], r.Size)
	}
	a := virtq.Area{Addr: p, GPA: r.GPA + m.used[i], Size: n}
	m.used[i] = min(r.Size, (m.used[i]+n+areaAlign-1)&^(areaAlign-1))
	return a, nil
}

// User translates a guest address to the front end's address that messages
// about rings use.
func User(gpa uint64) uint64 { return gpa - guestBase + userBase }

// Map lends the memory's map, for a device in this process.
func (m *Memory) Map() *guestmem.Map { return m.mem }

// Table describes the memory to a back end, with the files in the same order.
func (m *Memory) Table() (message.MemTable, []message.FD) {
	var t message.MemTable
	var fds []message.FD
	for i, r := range m.regions {
		t = append(t, message.MemRegion{GPA: r.GPA, Size: r.Size, UserAddr: r.User, MmapOffset: r.Offset})
		fds = append(fds, message.FD(m.files[i].Int()))
	}
	return t, fds
}

// Close unmaps the memory. Nobody may be using it.
func (m *Memory) Close() error {
	err := m.mem.Close()
	for i := range m.files {
		err = errors.Join(err, m.files[i].Close())
	}
	return err
}
