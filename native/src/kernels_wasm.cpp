#define GZ_NAME wasm
#define GZ_LABEL "wasm"
#define GZ_LANES 4
#define GZ_REGISTERS 16
#include "kernels.inc"
