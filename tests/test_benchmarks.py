"""What the benchmarks read out of compiled programs."""

from benchmarks import scaling, tpu_program

TEXT = """
  %a = f32[64,8]{1,0} all-gather(f32[8,8]{1,0} %x), channel_id=1, replica_groups=[2,4]<=[8]
  %b = (f32[], f32[16,4]{1,0}) all-reduce(%y, %z), replica_groups={{0,1},{2,3}}, to_apply=%add
  %c = (bf16[4]{0}, bf16[8]{0}) all-gather-start(bf16[4]{0} %w), replica_groups={}
  %d = f32[64,8]{1,0} add(f32[64,8]{1,0} %a, f32[64,8]{1,0} %all-reduce)
  ROOT %e = f32[2,2]{1,0} reduce-scatter(f32[8,2]{1,0} %v), replica_groups=[1,4]<=[4]
"""


def test_collectives_are_counted_with_their_devices():
    assert scaling.collectives(TEXT) == {
        "all-gather": [(64 * 8 * 4, 4), (24, 0)],
        "all-reduce": [(4 + 16 * 4 * 4, 2)],
        "reduce-scatter": [(16, 4)],
    }


def test_bytes_that_a_device_sends_over_a_ring():
    assert scaling.sent("all-gather", 800, 8) == 700
    assert scaling.sent("all-reduce", 800, 8) == 1400
    assert scaling.sent("reduce-scatter", 100, 8) == 700
    assert scaling.sent("collective-permute", 100, 8) == 100


def test_cycles_of_a_tpu_are_summed_by_pass_and_operation_loops_included():
    text = """
%inner (p: f32[8]) -> f32[8] {
  ROOT %f = f32[8] add(%p, %p), backend_config={"estimated_cycles":"999"}
}
%test (p: (s32[], f32[8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(10)
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}
%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %a = f32[8] fusion(%x), calls=%inner, metadata={op_name="jit(f)/sub"}, x={"estimated_cycles":"3"}
}
ENTRY %main (x: f32[8]) -> f32[8] {
  %a = f32[8] fusion(%x), metadata={op_name="jit(f)/jvp()/dot_general"}, x={"estimated_cycles":"7"}
  %b = f32[8] fusion(%x), metadata={op_name="jit(f)/jvp()/dot_general"}, x={"estimated_cycles":"5"}
  %c = f32[8] copy(%x), metadata={op_name="state['blocks'][3]"}, x={"estimated_cycles":"2"}
  %d = f32[8] copy(%x), x={"estimated_cycles":"1"}
  %w = (s32[], f32[8]) while(%t), condition=%test, body=%body
  ROOT %e = f32[8] bitcast(%x)
}"""
    counts, spent = tpu_program.cycles(text)
    assert spent == {"jvp() dot_general": 12, "jit(f) sub": 30, "copies": 3}
    assert counts == {"jvp() dot_general": 2, "jit(f) sub": 10, "copies": 2}
