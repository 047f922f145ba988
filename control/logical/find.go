package logical

// Column returns the column of the first token of text that is the name word, or
// the string, set or port group of that name: for errors about what a tree says, since
// trees have no columns. It is 1 if there is none.
func Column(text, word string) int {
	l := lexer{text: text}
	for l.next(); l.err == nil && l.tok.kind != tokEnd; l.next() {
		switch l.tok.kind {
		case tokID, tokString, tokSet, tokGroup:
			if l.tok.text == word {
				return l.tok.start + 1
			}
		}
	}
	return 1
}

// ParseConstant parses a number, an IP or an Ethernet address, perhaps with a
// mask, and nothing else: what an element of an address set is.
func ParseConstant(text string) (Constant, error) {
	p := parser{lexer: lexer{text: text}}
	p.next()
	var c Constant
	if p.tok.kind == tokInt {
		p.constant(&c)
	} else {
		p.want("a number, an IP address or an Ethernet address")
	}
	if p.err == nil && p.tok.kind != tokEnd {
		p.want("nothing more")
	}
	if p.err != nil {
		return Constant{}, p.err
	}
	return c, nil
}
