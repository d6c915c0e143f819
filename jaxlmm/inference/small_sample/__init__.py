"""Small-sample corrections: Satterthwaite, Kenward and Roger, and degrees of freedom by counting."""
