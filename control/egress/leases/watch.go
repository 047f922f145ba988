package leases

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Bounds of what the API may do.
const (
	listTime  = 30 * time.Second
	watchTime = 5 * time.Minute // after which the API ends a watch, and another begins
	watchSlop = 30 * time.Second
	// watchLeast is how often a watch begins that brings nothing: there are APIs, or proxies before them,
	// that end each at once.
	watchLeast = 2 * time.Second
	bodyMost   = 16 << 20
	eventMost  = 1 << 20
)

// errGone says that the API has forgotten the place where a watch was to begin.
var errGone = errors.New("the list is too old to go on from there (410 Gone)")

// An apiStatus is how the API says no (meta/v1, Status).
type apiStatus struct {
	Message string `json:"message"`
	Reason  string `json:"reason"`
	Code    int    `json:"code"`
}

func (s *apiStatus) Error() string { return fmt.Sprintf("%d %s: %s", s.Code, s.Reason, s.Message) }

// A kube asks one API server.
type kube struct {
	client  *http.Client
	base    string
	cfg     Config
	bearer  func() (string, error)
	metrics *metrics
}

func open(cfg Config, m *metrics) (*kube, error) {
	f, err := readKubeconfig(cfg.Kubeconfig)
	if err != nil {
		return nil, err
	}
	t, err := f.transport()
	if err != nil {
		return nil, err
	}
	return &kube{client: &http.Client{Transport: t}, base: strings.TrimSuffix(f.server, "/"), cfg: cfg, bearer: f.bearer, metrics: m}, nil
}

func (k *kube) close() { k.client.CloseIdleConnections() }

// follow lists, and watches until that fails. progress says that it has listed.
func (k *kube) follow(ctx context.Context, c *counter) (progress bool, err error) {
	list, at, err := k.list(ctx)
	if err != nil {
		return false, fmt.Errorf("list leases: %w", err)
	}
	c.replace(list)
	for {
		start, from := time.Now(), at
		at, err = k.watch(ctx, at, c)
		switch {
		case errors.Is(err, errGone):
			return true, nil // list again
		case err != nil:
			return true, fmt.Errorf("watch leases: %w", err)
		case at == from: // it brought nothing
			rest(ctx, start.Add(watchLeast))
		}
	}
}

// rest waits until a time, or until ctx ends.
func rest(ctx context.Context, until time.Time) {
	select {
	case <-ctx.Done():
	case <-time.After(time.Until(until)):
	}
}

// list returns all leases, and the place from which to watch.
func (k *kube) list(ctx context.Context) (list []lease, at string, err error) {
	ctx, cancel := context.WithTimeout(ctx, listTime)
	defer cancel()
	start := time.Now()
	body, err := k.get(ctx, nil)
	k.metrics.listed(time.Since(start), err)
	if err != nil {
		return nil, "", err
	}
	defer body.Close()
	var all struct {
		Metadata struct {
			ResourceVersion string `json:"resourceVersion"`
		} `json:"metadata"`
		Items []lease `json:"items"`
	}
	if err := json.NewDecoder(io.LimitReader(body, bodyMost)).Decode(&all); err != nil {
		return nil, "", fmt.Errorf("read the list: %w", err)
	}
	return all.Items, all.Metadata.ResourceVersion, nil
}

// watch takes events from a place on, until the API ends the watch. It returns
// the place then.
func (k *kube) watch(ctx context.Context, at string, c *counter) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, watchTime+watchSlop)
	defer cancel()
	body, err := k.get(ctx, url.Values{"watch": {"1"}, "resourceVersion": {at}, "allowWatchBookmarks": {"true"}, "timeoutSeconds": {strconv.Itoa(int(watchTime.Seconds()))}})
	k.metrics.watched(err)
	if err != nil {
		return at, goneOr(err)
	}
	defer body.Close()
	bounded := &io.LimitedReader{R: body}
	in := json.NewDecoder(bounded)
	for {
		bounded.N = eventMost
		var e struct {
			Type   string          `json:"type"`
			Object json.RawMessage `json:"object"`
		}
		if err := in.Decode(&e); errors.Is(err, io.EOF) && bounded.N > 0 {
			return at, nil
		} else if err != nil {
			return at, fmt.Errorf("read an event: %w", err)
		}
		if at, err = take(e.Type, e.Object, at, c); err != nil {
			return at, err
		}
	}
}

// take carries out one event. It returns the place after it.
func take(kind string, object []byte, at string, c *counter) (string, error) {
	if kind == "ERROR" {
		s := new(apiStatus)
		if err := json.Unmarshal(object, s); err != nil {
			return at, fmt.Errorf("read an error: %w", err)
		}
		return at, goneOr(s)
	}
	var l lease
	if err := json.Unmarshal(object, &l); err != nil {
		return at, fmt.Errorf("read an event of type %.20q: %w", kind, err)
	}
	switch kind {
	case "ADDED", "MODIFIED", "DELETED":
		c.change(kind, l)
	case "BOOKMARK":
	default:
		return at, fmt.Errorf("an event of type %.20q, which there is not", kind)
	}
	if l.Metadata.ResourceVersion == "" {
		return at, fmt.Errorf("an event of type %s without resourceVersion", kind)
	}
	return l.Metadata.ResourceVersion, nil
}

// goneOr returns errGone for what means that.
func goneOr(err error) error {
	if s, ok := errors.AsType[*apiStatus](err); ok && s.Code == http.StatusGone {
		return errGone
	}
	return err
}

// get asks for the leases. The caller closes what comes.
func (k *kube) get(ctx context.Context, more url.Values) (io.ReadCloser, error) {
	q := url.Values{"labelSelector": {k.cfg.Selector}}
	for name, v := range more {
		q[name] = v
	}
	at := k.base + "/apis/coordination.k8s.io/v1/namespaces/" + url.PathEscape(k.cfg.Namespace) + "/leases?" + q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, err
	}
	token, err := k.bearer()
	if err != nil {
		return nil, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "millrace")
	resp, err := k.client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	return nil, readStatus(resp)
}

// readStatus is the error of an answer that is none.
func readStatus(resp *http.Response) error {
	s := new(apiStatus)
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if json.Unmarshal(b, s) != nil || s.Message == "" {
		s.Message = strings.TrimSpace(string(b))
	}
	s.Code = resp.StatusCode
	if s.Reason == "" {
		s.Reason = http.StatusText(resp.StatusCode)
	}
	return s
}
