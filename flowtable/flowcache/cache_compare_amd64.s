#include "textflag.h"

// func compareLines(base uintptr, mask uint64, keys *[64]NarrowKey, cand *[64]uint8, hash *[64]uint64, from, end int, bits *NarrowKey, id, now uint64, found *[64]uint64) (again int)
//
// See compareLinesGeneric. A key is 48 bytes; an entry has its id in bytes
// 0..7, its epoch in 10..11 and its key from 16 on.
//
//   AX base   BX mask   CX keys   SI cand   DI hash   R8 end   R11 now   R12 found
//   R13 j   R15 again   DX i   R9 hash[j]   R14 offset of key, then entry
//   X0, Y1 bits   X5 id in the place that it has in an entry
TEXT ·compareLines(SB), NOSPLIT, $0-96
	MOVQ    base+0(FP), AX
	MOVQ    mask+8(FP), BX
	MOVQ    keys+16(FP), CX
	MOVQ    cand+24(FP), SI
	MOVQ    hash+32(FP), DI
	MOVQ    from+40(FP), R13
	MOVQ    end+48(FP), R8
	MOVQ    bits+56(FP), R9
	MOVQ    id+64(FP), R10
	MOVQ    now+72(FP), R11
	MOVQ    found+80(FP), R12
	VMOVDQU (R9), X0
	VMOVDQU 16(R9), Y1
	SHLQ    $48, R10
	VMOVQ   R10, X5
	MOVQ    R13, R15

next:
	CMPQ    R13, R8
	JAE     done
	MOVBLZX (SI)(R13*1), DX
	MOVQ    (DI)(R13*8), R9
	INCQ    R13
	LEAQ    (DX)(DX*2), R14
	SHLQ    $4, R14
	VPAND   (CX)(R14*1), X0, X2
	VPAND   16(CX)(R14*1), Y1, Y3
	MOVQ    R9, R14
	ANDQ    BX, R14
	SHLQ    $6, R14
	ADDQ    AX, R14
	VMOVQ   (R14), X4
	VPXOR   X5, X4, X4
	VPSRLQ  $48, X4, X4
	VPXOR   16(R14), X2, X2
	VPXOR   32(R14), Y3, Y3
	VPOR    X4, X2, X2
	VPOR    Y2, Y3, Y3
	VPTEST  Y3, Y3
	JNZ     differs
	MOVQ    (R14), R9
	MOVQ    R9, (R12)(DX*8)
	CMPW    R11, 10(R14)
	JEQ     next
	MOVW    R11, 10(R14)
	JMP     next

differs:
	MOVB DX, (SI)(R15*1)
	MOVQ R9, (DI)(R15*8)
	INCQ R15
	JMP  next

done:
	VZEROUPPER
	SUBQ from+40(FP), R15
	MOVQ R15, again+88(FP)
	RET
