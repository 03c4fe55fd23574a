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
    Batched grads are not supported with
    C++ NestedTensor are not supported with
    Can only build ExpandedWeights objects of
    Cannot register the same function as
    Cannot register two spectral_norm hooks on
    Cannot register two weight_norm hooks on
    Cannot use torch._custom_ops APIs to register
    Computing Jacobian using forward-AD or forward-over-reverse
    Current Expanded Weights accumulates the gradients,
    DDP join hook requires passing in
    Detected 0 disjoint backward regions annotated
    Detected 0 disjoint backward regions that
    Entering a new forward AD level
    Error while setting up backward hooks.
    Expanded Weights: Layer norm should not
    Expected 0 from each model to
    Expected 0 gradients but got 0
    Expected at least one of check_forward_ad
    Expected fwd_thread to be set for
    Expected grad_out to be 1.0. get_analytical_jacobian
    Expected grad_out to be 1.0. get_numerical_jacobian
    Expected gradient function to be set
    Expected input to be a checkpoint
    Expected inputs to be non-complex for
    Expected out_jacobian column to have 0
    Expected output to be non-complex. get_analytical_jacobian
    Expected output to be non-complex. get_numerical_jacobian
    Grad scaling should occur outside of
    Hooks registered with ``register_load_state_dict_post_hook`` are not
    ITT annotation context manager is not
    In any :class:`~torch.nn.Module` passed to :func:`~make_graphed_callables`,
    In torch.compile mode, `context_fn` arg passed
    Input tensor gradient must be a
    Invalid input_type to _check_requires_grad
    MKLDNN inputs are not support for
    Module '0' does not expose FA3
    NVTX annotation context manager is not
    NYI: calling supports_tensorlist autograd.Function.backward directly. This
    NYI: calling supports_tensorlist autograd.Function.forward directly. You
    Offloaded tensor 0 has no users
    Param gradient must be a 2D
    Profiler context manager is not reentrant
    Registration to both CompositeImplicitAutograd and CompositeExplicitAutograd
    Script and require grads is not
    Serialization of parametrized modules is only
    Setting check_batched_forward_grad=True requires check_forward_ad to be
    Shape of array too small to
    Something went unexpectedly wrong in activation
    Tensor arguments, excluding CPU tensors, are
    The 0 HigherOrderOperator does not currently
    The default load endianness for checkpoints
    To use the ILP for memory
    We found a '0' registration for
    We should not register a meta
    With output_differentiability=0. At idx 0, we
    You are trying to call the
    You are trying to revive the
    __torch_dispatch__, 0: expected the masks of
    __torch_dispatch__, 0: grad and output must
    _apply(): Couldn't swap 0.0.grad
    _scale is None in unscale_
    `grad_tensors` and `grad_variables` (deprecated) arguments both
    `inputs` argument to `backward()` must be
    `inputs` argument to `grad()` must be
    ambiguous autogradother kernel
    autograd initialization failed
    autograd kernel indirection already registered
    backward hook 0 on tensor will
    backward impl must be registered first
    backwards not supported on prim
    expected GlobalContextCheckpointState, got 0
    expected GuardsCheckpointState, got 0
    expected ModuleContextCheckpointState, got 0
    expected TransformType.Grad, got 0
    expected grad to be None for
    forward pre-hook must return None or
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
    materialize_grads cannot be used when the
    mmap can only be used with
    module forward hook with ``always_call=True`` raised
    only_inputs argument is deprecated and is
    out_param.grad must not be None
    output_differentiability length 0 != output length
    register_fake(...): the operator 0 already has
    row_var and col_var should be defined
    save_for_backward impl must be registered first
    state_dict post-hook must return None
    torch.autograd.functional.jacobian: `create_graph=True` and `strategy="forward-mode"` are not
    torch.autograd.functional.jacobian: `strict=True` and `strategy="forward-mode"` are not
    torch.autograd.functional.jacobian: `strict=True` and `vectorized=True` are not
    torch.autograd.graph.region_activation_memory_budget can only be used inside
    torch.autograd.graph.region_activation_memory_budget: conflicting budgets within a single
    torch.autograd.graph.region_activation_memory_budget: expects a float, got 0
    torch.autograd.graph.region_activation_memory_budget: must be in [0, 1],
    torch.autograd.graph.region_activation_memory_budget: must cover the entire forward
    torch.autograd.variable(...) is deprecated, use torch.tensor(...) instead
    torch.utils.checkpoint: expected context_fn generator to yield
    torch.utils.checkpoint: the forward context provided by
    val must not require gradient
    variance should be defined when grad
"""
