#include "textflag.h"

// func Lines(base uintptr, at *[64]uint64, n int, mask, shift uint64)
//
// Asks for the line at base + (at[i]&mask)<<shift, for i < n. Four a turn; the
// rest one by one.
TEXT ·Lines(SB), NOSPLIT, $0-40
	MOVQ base+0(FP), AX
	MOVQ at+8(FP), SI
	MOVQ n+16(FP), BX
	MOVQ mask+24(FP), DX
	MOVQ shift+32(FP), CX
	SUBQ $4, BX
	JB   rest

four:
	MOVQ       (SI), R8
	MOVQ       8(SI), R9
	MOVQ       16(SI), R10
	MOVQ       24(SI), R11
	ADDQ       $32, SI
	ANDQ       DX, R8
	ANDQ       DX, R9
	ANDQ       DX, R10
	ANDQ       DX, R11
	SHLQ       CX, R8
	SHLQ       CX, R9
	SHLQ       CX, R10
	SHLQ       CX, R11
	PREFETCHT0 (AX)(R8*1)
	PREFETCHT0 (AX)(R9*1)
	PREFETCHT0 (AX)(R10*1)
	PREFETCHT0 (AX)(R11*1)
	SUBQ       $4, BX
	JAE        four

rest:
	ADDQ $4, BX
	JZ   done

one:
	MOVQ       (SI), R8
	ADDQ       $8, SI
	ANDQ       DX, R8
	SHLQ       CX, R8
	PREFETCHT0 (AX)(R8*1)
	DECQ       BX
	JNZ        one

done:
	RET
