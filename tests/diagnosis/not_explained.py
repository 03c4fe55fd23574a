"""Messages of torch's Python files with words of gradients in them that explain() does not know.

Their first six words: options that exclude each other, faults of torch itself, what is only advice,
and hooks and checkpoints of other kinds.
"""

NOT_EXPLAINED = """
    0 is a CompositeImplicitAutograd op, we
    AOT Autograd failed to partition the
    Activation checkpoint rematerialization in `forward-loss-backward` graph
    Attempt to override existing getstate_hook
    Attempt to override existing reduce_ex_hook
    Avoid adding multiple pruning hooks to
    Backwards compatibility: New undefined gradient support
    Cannot register the same function as
    Cannot register two spectral_norm hooks on
    Cannot register two weight_norm hooks on
    Cannot use torch._custom_ops APIs to register
    DDP join hook requires passing in
    Detected 0 disjoint backward regions annotated
    Detected 0 disjoint backward regions that
    Expanded Weights: Layer norm should not
    Expected 0 gradients but got 0
    Expected fwd_thread to be set for
    Expected gradient function to be set
    Expected input to be a checkpoint
    Expected out_jacobian column to have 0
    Grad scaling should occur outside of
    Hooks registered with ``register_load_state_dict_post_hook`` are not
    ITT annotation context manager is not
    Invalid input_type to _check_requires_grad
    NVTX annotation context manager is not
    NYI: calling supports_tensorlist autograd.Function.backward directly. This
    NYI: calling supports_tensorlist autograd.Function.forward directly. You
    Offloaded tensor 0 has no users
    Profiler context manager is not reentrant
    Registration to both CompositeImplicitAutograd and CompositeExplicitAutograd
    Serialization of parametrized modules is only
    Shape of array too small to
    Something went unexpectedly wrong in activation
    The default load endianness for checkpoints
    To use the ILP for memory
    We found a '0' registration for
    We should not register a meta
    With output_differentiability=0. At idx 0, we
    __torch_dispatch__, 0: expected the masks of
    __torch_dispatch__, 0: grad and output must
    ambiguous autogradother kernel
    autograd initialization failed
    autograd kernel indirection already registered
    backward impl must be registered first
    backwards not supported on prim
    expected GlobalContextCheckpointState, got 0
    expected GuardsCheckpointState, got 0
    expected ModuleContextCheckpointState, got 0
    expected TransformType.Grad, got 0
    expected grad to be None for
    global module forward hook with ``always_call=True``
    grad
    grad should not be None
    hook must be callable, got 0
    hook must return None or dict,
    impl_abstract(...): the operator 0 already has
    impl_backward(output_differentiability): expected output_differentiability to be a
    impl_backward/impl_save_for_backward: the operator 0 already has
    len(gradients)=0 != len(args)=0
    len(grads)=0 != len(static_grad_outputs)=0
    linear_cross_entropy: forcing allow_retain_graph=True under torch.compile (adds
    mmap can only be used with
    module forward hook with ``always_call=True`` raised
    out_param.grad must not be None
    output_differentiability length 0 != output length
    register_fake(...): the operator 0 already has
    row_var and col_var should be defined
    save_for_backward impl must be registered first
    state_dict post-hook must return None
    torch.autograd.graph.region_activation_memory_budget can only be used inside
    torch.autograd.graph.region_activation_memory_budget: conflicting budgets within a single
    torch.autograd.graph.region_activation_memory_budget: expects a float, got 0
    torch.autograd.graph.region_activation_memory_budget: must be in [0, 1],
    torch.autograd.graph.region_activation_memory_budget: must cover the entire forward
    torch.autograd.variable(...) is deprecated, use torch.tensor(...) instead
    val must not require gradient
    variance should be defined when grad
"""
