#include "textflag.h"

// func moveAVX(c *Copy, n int)
//
// Every length from 16 bytes on is covered by moves of a fixed size, of which
// the last overlaps the one before it. Shorter ones go by 8, 4, 2 and 1.
//
//   AX copy   BX copies left   DI dst   SI src   CX bytes left
TEXT ·moveAVX(SB), NOSPLIT, $0-16
	MOVQ c+0(FP), AX
	MOVQ n+8(FP), BX

next:
	MOVQ 0(AX), DI
	MOVQ 8(AX), SI
	MOVQ 16(AX), CX
	ADDQ $24, AX
	CMPQ CX, $64
	JA   long

short:
	CMPQ    CX, $32
	JB      under32
	VMOVDQU (SI), Y0
	VMOVDQU -32(SI)(CX*1), Y1
	VMOVDQU Y0, (DI)
	VMOVDQU Y1, -32(DI)(CX*1)

done:
	DECQ BX
	JNZ  next
	VZEROUPPER
	RET

long:
	// 64 bytes a turn while more than 64 are left, then the last 64 again
	// from the end.
	VMOVDQU -64(SI)(CX*1), Y2
	VMOVDQU -32(SI)(CX*1), Y3
	LEAQ    -64(DI)(CX*1), R8

loop:
	VMOVDQU (SI), Y0
	VMOVDQU 32(SI), Y1
	VMOVDQU Y0, (DI)
	VMOVDQU Y1, 32(DI)
	ADDQ    $64, SI
	ADDQ    $64, DI
	SUBQ    $64, CX
	CMPQ    CX, $64
	JA      loop
	VMOVDQU Y2, (R8)
	VMOVDQU Y3, 32(R8)
	JMP     done

under32:
	CMPQ    CX, $16
	JB      under16
	VMOVDQU (SI), X0
	VMOVDQU -16(SI)(CX*1), X1
	VMOVDQU X0, (DI)
	VMOVDQU X1, -16(DI)(CX*1)
	JMP     done

under16:
	CMPQ CX, $8
	JB   under8
	MOVQ (SI), R8
	MOVQ -8(SI)(CX*1), R9
	MOVQ R8, (DI)
	MOVQ R9, -8(DI)(CX*1)
	JMP  done

under8:
	CMPQ CX, $4
	JB   under4
	MOVL (SI), R8
	MOVL -4(SI)(CX*1), R9
	MOVL R8, (DI)
	MOVL R9, -4(DI)(CX*1)
	JMP  done

under4:
	TESTQ CX, CX
	JZ    done
	MOVB  (SI), R8
	MOVB  -1(SI)(CX*1), R9
	SHRQ  $1, CX
	MOVB  (SI)(CX*1), R10
	MOVB  R8, (DI)
	MOVB  R10, (DI)(CX*1)
	// the last byte: DI + original length - 1
	MOVQ  -8(AX), CX
	MOVB  R9, -1(DI)(CX*1)
	JMP   done
